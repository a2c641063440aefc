"""Small random models of every class that the host supports, trained and loaded again."""
