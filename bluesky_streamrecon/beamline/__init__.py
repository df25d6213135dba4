"""The beamline room."""
