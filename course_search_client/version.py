"""The version of the client, which is that of the product."""

VERSION = "1.0.0"
