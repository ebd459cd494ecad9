"""What a store holds, served once more as the service would."""
