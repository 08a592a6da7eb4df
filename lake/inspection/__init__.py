"""What a lake holds and whether every byte is right; python -m lake asks.
In: a lake's folder. Out: text, a contact sheet, a list of problems."""
