"""Controllers, pure and level-triggered: cell state in, commands out."""
