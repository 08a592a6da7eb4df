"""What a lake holds, whether every byte is right, and how records leave it; python -m lake asks.
In: a lake's folder. Out: text, a contact sheet, a list of problems, a lake without patients."""
