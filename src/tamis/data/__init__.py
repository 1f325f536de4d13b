"""From files to typed splits."""
