"""An exchange to play against: order flow and matching compiled, Binance USD-M frames on a real WebSocket.

The protocol is documented in :mod:`market.simulator.exchange`.
"""
