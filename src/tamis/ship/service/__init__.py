"""The moderation service: an HTTP server around a bundle."""
