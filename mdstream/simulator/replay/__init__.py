"""Replays of stores and journals, as the service would send them."""
