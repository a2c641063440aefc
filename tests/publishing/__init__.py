"""What a published version needs."""
