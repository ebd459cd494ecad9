"""Facts about the services that data comes from. One folder per service."""
