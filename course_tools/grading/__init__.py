"""From what a class handed in to marks and feedback pages (`course grade`)."""
