"""Front ends in processes of their own, and the link between them and the one that decides."""
