"""The examination of a course: questions made from its own chunks, and how well searches answer them."""
