"""What was made from images of a lake. In: ids, folders. Out: the files and folders that hold or
show them, and what could not be looked into; lake/__main__.py asks."""
