"""What travels: the values of the Activity Protocol, and nothing but the standard library."""
