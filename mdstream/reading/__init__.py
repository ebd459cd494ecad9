"""What readers load: frames of a running engine, without a copy and without a producer."""
