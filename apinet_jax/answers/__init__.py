"""What a trained run answers: which class, how sure, why, and where it fails."""
