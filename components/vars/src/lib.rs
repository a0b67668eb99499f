//! Spin variables from the environment, for WASI hosts that have no Spin interfaces.
