"""A simulated exchange: compiled order flow and matching, Binance USD-M frames on a real WebSocket.

The protocol is documented in :mod:`market.simulator.exchange`.
"""
