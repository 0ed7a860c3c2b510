"""Routes that create courses and upload files to them."""
