"""What an inventory may say, and the FleetSpec that its text becomes."""
