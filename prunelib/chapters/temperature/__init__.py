"""Where along the temperature does softmax amplify, and where does it damp?"""
