"""What the dashboard costs the browser that shows it, and whether its rows stay where they are."""
