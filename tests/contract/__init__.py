"""What every source must do, proven on each of them."""
