"""What `deploy/`, compose.yaml and Dockerfile say, held against the code; and the containers themselves."""
