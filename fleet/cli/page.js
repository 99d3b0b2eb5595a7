// Keys are the dashboard's as soon as it is there, without a click.
new MutationObserver((_, watching) => {
  if (document.body.classList.contains("-first-byte")) {
    watching.disconnect();
    document.querySelector(".xterm-helper-textarea").focus();
  }
}).observe(document.body, { attributes: true });
