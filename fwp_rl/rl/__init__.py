"""What reinforcement learning needs of any agent: playing, replaying, returns, masked losses."""
