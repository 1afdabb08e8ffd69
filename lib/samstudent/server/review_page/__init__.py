"""Web page at /samstudent: overview of the study, rounds, and review of pseudo labels."""
