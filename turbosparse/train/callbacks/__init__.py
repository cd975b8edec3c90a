"""What happens between Composer's steps."""
