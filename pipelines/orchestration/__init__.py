"""What only schedulers use: assets, questions, queues of approvals."""
