"""What is kept of every tensor while text streams by, in bounded memory."""
