"""The corner of Ray that older programs submit jobs from."""
