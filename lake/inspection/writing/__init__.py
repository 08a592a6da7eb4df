"""A lake's records in formats of other programs; python -m lake write asks.
In: a lake's folder and splits. Out: a new folder with images, masks and what is known of them."""
