@echo off
rem Runs one command of the tools; without arguments it lists them.
rem The servers are programs for Linux: on Windows they run in WSL, with the same folders and options.
rem Paths among the options are Linux paths; relative ones begin in the folder above bin.
setlocal
if defined WSLENV set "WSLENV=%WSLENV%:"
set "WSLENV=%WSLENV%QMQ_HOME/p:QMQ_CONF/p:QMQ_BIN_DIR/p:QMQ_NAME:QMQ_START_SECONDS:QMQ_STOP_SECONDS:QMQ_META:QMQ_TOKEN"
wsl.exe --cd "%~dp0.." --exec bin/tools.sh %*
exit /b %ERRORLEVEL%
