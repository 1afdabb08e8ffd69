"""The server's own page at /samstudent: how the study stands, its rounds, and the review of pseudo labels."""
