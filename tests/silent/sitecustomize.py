"""Python imports this file as it starts, wherever this folder is on PYTHONPATH: it notes every attempt to reach another machine.

FTCOOK_ATTEMPTS: the file to note it in, a line of JSON each. FTCOOK_NO_NETWORK: refuse it, too, as a cut cable would.
What libraries do below Python's sockets is not seen here; a network namespace stops that."""
import json, os, sys, traceback

where, refuse = os.environ.get('FTCOOK_ATTEMPTS'), os.environ.get('FTCOOK_NO_NETWORK')
lookups = ('socket.getaddrinfo', 'socket.gethostbyname', 'socket.gethostbyaddr')
packets = ('socket.connect', 'socket.sendto', 'socket.sendmsg')

def at_home(host):
    host = host.decode() if isinstance(host, bytes) else host
    return not host or host in ('localhost', '0.0.0.0', '::', '::1') or host.startswith('127.')

def watch(event, args):
    if event in lookups: host = args[0]
    elif event in packets:
        address = args[1]
        if not isinstance(address, tuple): return  # a Unix socket, or one that is connected already
        host = address[0]
    else: return
    if at_home(host): return
    stack = [f'{f.filename}:{f.lineno} {f.name}' for f in traceback.extract_stack()[:-1]]
    line = json.dumps(dict(event=event, host=str(host), argv=sys.argv[:3], stack=stack[-12:])) + '\n'
    with open(where, 'a') as f: f.write(line)
    if refuse: raise OSError(f'no network: {host}')

if where: sys.addaudithook(watch)
