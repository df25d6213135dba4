"""The sim_devices room."""
