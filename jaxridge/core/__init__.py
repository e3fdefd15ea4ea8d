"""What every wing stands on: shapes, result codes, checks of arguments, numbers, derivatives, rows, the planner."""
