"""What is to be done, decided purely: steps, and the order in which they are safe."""
