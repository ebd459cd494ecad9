"""The pool of worker processes: what starts them, gives them tickets, and replaces them."""
