"""The actor and the critic, and the distributions of actions that the actor's output stands for."""
