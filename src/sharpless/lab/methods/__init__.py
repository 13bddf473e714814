"""Methods, one row of a comparison each: names with parameters, their kinds, and other packages."""
