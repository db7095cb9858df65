"""The conductor: export, passes, calibration, engines, proof and report, in that order."""
