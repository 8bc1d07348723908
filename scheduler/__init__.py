"""The scheduler, pure: a picture of the cell in, a plan out."""
