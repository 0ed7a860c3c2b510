"""Course snapshots: the content of one generation of a course in one immutable file, mapped into memory."""
