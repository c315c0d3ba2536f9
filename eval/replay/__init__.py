"""`medusa-apar eval replay`: recorded answers of real models drive the engine, a calibrated simulation."""
