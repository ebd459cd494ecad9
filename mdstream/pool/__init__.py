"""The pool of worker processes: start them, give them tickets, and replace them."""
