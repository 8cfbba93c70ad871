"""The corner of Ray that its test programs import helpers from."""
