"""Geant4 11 through geant4-pybind: its data tables, a detector's volumes, and a process of its own for each block."""
