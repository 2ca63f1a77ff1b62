"""The processes of one program, and the devices of each."""
