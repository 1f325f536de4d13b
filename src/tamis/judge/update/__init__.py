"""Whether a new model may follow the old one: what no class may lose, and what the old one missed."""
