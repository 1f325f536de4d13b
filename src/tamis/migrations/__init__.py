"""Numbered migrations of the store; `tamis.store` runs them when it opens a database."""
