"""What makes a model, when it is due, what may go live, and how it is made again."""
