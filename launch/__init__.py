"""What starts commands elsewhere, or several at a time. No TensorFlow here."""
